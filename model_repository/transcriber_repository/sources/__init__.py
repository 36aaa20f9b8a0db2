"""Where weights come from: one module per kind of source, and the one download that all of them feed."""
