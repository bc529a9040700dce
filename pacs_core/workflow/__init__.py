"""What is scheduled and what was performed: worklist, procedure steps. Rules on values; nothing here talks to a network or a database."""
