"""What happens to studies after they arrived. Each module is one flow and reads like a runbook."""
