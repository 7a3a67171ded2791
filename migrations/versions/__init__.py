"""The revisions, oldest first; each stands alone and never imports live code."""
