"""Each cell of docs/interactions.md: what happens where two capabilities, or a capability and a kind of queue, meet."""
