"""What differs between engines, as tables of facts."""
