"""Does the test suite notice when a rule is wrong? Each mutant is the package with one small mistake in it; the suite must fail."""
