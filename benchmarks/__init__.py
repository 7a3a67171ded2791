"""What is measured about speed, each by a command of its own that prints what it found."""
