"""What people come for: compare, rank, sweep, advise, benchmark."""
