"""A linearizability checker (Wing and Gong): whether some order of single steps explains what threads got."""
