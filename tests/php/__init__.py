"""PHP consumers as people run them: under supervisord, and with Symfony Messenger."""
