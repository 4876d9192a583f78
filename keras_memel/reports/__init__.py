"""What analyze returns, and how it is saved, drawn and browsed."""
