"""The report as a page for people, and as files: everything of it is made from a Report alone."""
