"""The scheduled tasks, a module each: a function run(TaskContext) that answers with its figures."""
