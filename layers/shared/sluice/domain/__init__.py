"""What Sluice is about, without HTTP, AWS or SQL: requests and their states, documents, errors, keys."""
