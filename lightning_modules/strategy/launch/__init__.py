"""How ranks are started, find and check each other, and what happens when one of them fails."""
