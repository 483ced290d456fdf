"""What every script that writes a run shares: its folder, its session, its loops, its figures."""
