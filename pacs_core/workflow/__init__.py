"""What happens around an examination: priors that are fetched, instances that are sent on. Rules, and their work behind Protocols."""
