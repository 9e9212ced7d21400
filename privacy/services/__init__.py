"""Use cases of privacy: one function, one unit of work of the caller."""
