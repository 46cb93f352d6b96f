"""Whether scores tell the truth: retraining without what they name, corrupted triples, random weights."""
