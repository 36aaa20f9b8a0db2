"""Pure: from what was observed to what is to be written."""
