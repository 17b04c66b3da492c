"""What the process imports from which those of `lives` are forked."""

from tests.faults.lives import warm_here

warm_here()
