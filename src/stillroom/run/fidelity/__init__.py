"""How well each member of the KL family, at each depth, tells a student's true divergence from its teacher."""
