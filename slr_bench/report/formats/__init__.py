"""A table or report as text of one format."""
