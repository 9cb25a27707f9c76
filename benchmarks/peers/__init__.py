"""fastdb beside other libraries, the hand-written way, and the limits of what can be had."""
