"""A small serving process: it follows the adapter feed, holds what the feed says, and answers over HTTP."""
