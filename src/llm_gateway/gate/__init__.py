"""What stands before both planes: keys and scopes, the ids of a request, its headers and its body."""
