"""What an answer says: jobs, lists and problems, written."""
