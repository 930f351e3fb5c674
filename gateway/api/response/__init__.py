"""Writing answers: jobs, lists, cursors and explanations of problems."""
