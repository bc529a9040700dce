"""What the durability benches share: instances, senders that keep an oracle, archives that are killed, and the check against the oracle.

The oracle is written by the clients, synced after each response, and knows nothing of the archive. What it calls acknowledged has
to be there afterwards; what it has tried may be there; anything else must not.
"""
