"""Train experts, add them with a check for harm, compare and combine them."""
