"""What one writer carries and what a million requests cost, from measured figures and a dated price file."""
