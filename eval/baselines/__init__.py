"""What a model is read against, on the same split: counted lists and SASRec."""
