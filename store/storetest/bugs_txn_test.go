package storetest

var txnBugs = []bug{}
var txnRefusalBugs = []bug{}
