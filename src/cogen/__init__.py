"""Co-generation as posterior inference."""
