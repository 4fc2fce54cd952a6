"""The algebra of linear recurrences: affine forms, their operator rules, their structures."""
