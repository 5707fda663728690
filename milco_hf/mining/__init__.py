"""Training rows for SCT: hard negatives (`milco mine`) and teacher scores (`milco score`)."""
