"""How well each member of the KL family, at each depth, predicts a student's true divergence from its teacher."""
