"""What happens around an examination: what is scheduled, performed and committed to, which priors are fetched, what is sent on.

Rules, and their work behind Protocols.
"""
