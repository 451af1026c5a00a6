"""What a language model over codes needs: vocabulary, merges, data set, masks, processor. Extra `tokens`."""
