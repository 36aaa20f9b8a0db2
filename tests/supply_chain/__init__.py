"""What the project is made of: the locks, the licences of what they name, and bills of materials."""
