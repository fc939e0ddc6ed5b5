"""Administration, a module for each subject: an operation's arguments beside what it does, and both in its OPERATIONS."""
