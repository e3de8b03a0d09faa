"""What is wrong with a data set: duplicates, leaks, label errors, outliers and drift; and the list of what to leave out."""
