"""What ROMs hold of weights where that is not the weights as they are."""
