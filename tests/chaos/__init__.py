"""Everything is killed, cut and stopped while clients step sessions; at the end nothing may be lost or doubled."""
