"""Administration, a module for each subject: the arguments of its operations, what they do, and a table of both."""
