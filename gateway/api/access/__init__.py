"""Who may send requests, and when they begin: callers, scopes, rates, budgets and turns."""
