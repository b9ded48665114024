"""What clients see; the only home of the web frameworks."""
