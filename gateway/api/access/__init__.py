"""Who may ask, and when: callers, scopes, rates, budgets and turns."""
