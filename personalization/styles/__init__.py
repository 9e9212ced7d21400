"""How a tenant's answers look: one charged vote of its users, what it finds, and what is made of it.

Everything here is plain Python on texts and numbers. Who calls ``votes`` reads private texts and must have reserved the
vote (``privacy.mechanisms.partition_selection``) before; what ``discovery`` returns has been released, and everything
made of it is post-processing.
"""
