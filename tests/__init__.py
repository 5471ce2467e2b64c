"""A package, so that another one of this name among the installed ones does not stand before it."""
