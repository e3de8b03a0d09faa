"""Claims: what a paper says, how it is run, and what a statistician would say of our runs beside theirs."""
