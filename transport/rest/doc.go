// Package rest is dkv over HTTP and JSON, for curl and for programs in any language:
// resources, methods and status codes. [NewHandler] makes an [http.Handler] of some
// stores; it leaves to others what it listens on, TLS, and who may do what, for which
// there is [Handler.Authorize]. Programs in Go are served better by package transport,
// whose clients repeat safely what was not answered.
//
// # Keys and values
//
// A store is a shard, and has a number. The rest of the path behind keys/ is the key,
// percent-encoded where it has to be; a slash may be encoded or not. No path is
// cleaned and none redirected: keys may have empty segments, dots, and slashes at
// their ends. (curl cleans paths itself, unless it is told --path-as-is.) The body is
// the value, as it is.
//
//	curl -i -X PUT --data-binary 'hello' localhost:8080/v1/shards/1/keys/greeting
//	# 204
//	curl localhost:8080/v1/shards/1/keys/greeting
//	# 200 hello
//	curl -H 'Accept: application/json' localhost:8080/v1/shards/1/keys/greeting
//	# 200 {"key":"greeting","value":"aGVsbG8=","revision":1}
//	curl -i -X PUT -d 'v' 'localhost:8080/v1/shards/1/keys/a%2Fb%00?expireIn=10s&deleteIn=1m'
//	# 204
//
// GET of a key answers with the value, its revision in quotes as the ETag, and the
// times left in Dkv-Expire-In and Dkv-Delete-In; 404 if there is no such key. At
// expireIn the value goes and the key stays: that is 404 too, with the header
// Dkv-Expired: true. HEAD is GET without the body. If-None-Match with the ETag is
// answered with 304 if nothing has changed; a deadline changes the status and leaves
// the ETag. With ?stale=true the member that answers tells what it knows, without
// asking the others and without an ETag.
//
// PUT takes expireIn and deleteIn, and conditions: If-Match with an ETag, or
// If-None-Match: * for a key that is not there, which an expired one still is. A
// condition that does not hold is 412, with the ETag that the key has instead. The
// ETag of what was set is in the answer, 204, or 201 if it was known not to be there.
// Only a value so large that it leaves no room for its key in a transaction is set
// without an ETag, if there is no condition. DELETE takes If-Match, and is no error if
// there is no such key. Dkv-Revision is the revision of a change that was made.
//
//	curl -i -X PUT -H 'If-None-Match: *' -d 'one' localhost:8080/v1/shards/1/keys/task
//	# 201
//	curl -i -X PUT -H 'If-Match: "1"' -d 'two' localhost:8080/v1/shards/1/keys/task
//	# 412 {"error":"the key has another revision","code":0,"kind":"final"}
//	curl -i -X PUT -H 'If-Match: "3"' -d 'two' localhost:8080/v1/shards/1/keys/task
//	# 204
//	curl -i -X DELETE -H 'If-Match: "4"' localhost:8080/v1/shards/1/keys/task
//	# 204
//	curl -X POST 'localhost:8080/v1/shards/1/keys/visits?op=add&delta=2'
//	# 200 {"number":2,"revision":6}
//	curl -X POST 'localhost:8080/v1/shards/1/keys/greeting?op=expire'
//	# 204
//
// In JSON a value is base64; a key that is not valid UTF-8 is keyBase64 instead of
// key. A duration is text as in 1m30.5s, and one that is left out is never. Revisions,
// tokens and numbers have 64 bits.
//
// # Scans
//
// GET keys lists keys in the order of their bytes: those with a prefix, from a key on,
// before the key to, behind the key after; reverse, keysOnly, and a limit of 100, or
// up to 1000, for each page. A page that comes to 4 MiB is shorter. If there is more,
// next is the parameter that the next page is asked for with, beside the others as
// they were. A page is of one state, that of its revision; the next is of a state of
// its own.
//
//	curl 'localhost:8080/v1/shards/1/keys?prefix=gr&keysOnly'
//	# 200 {"entries":[{"key":"greeting","revision":7,"expired":true}],"revision":7}
//	curl 'localhost:8080/v1/shards/1/keys?from=b&limit=1&keysOnly'
//	# 200 {"entries":[{"key":"greeting","revision":7,"expired":true}],"revision":7,"next":"Z3JlZXRpbmc"}
//	curl 'localhost:8080/v1/shards/1/keys?from=b&limit=1&next=Z3JlZXRpbmc'
//	# 200 {"entries":[{"key":"visits","value":"Mg==","revision":6}],"revision":7}
//
// # Transactions
//
// POST txn carries out the operations of then if all conditions hold, else those of
// else, as one change. A condition is of kind revision (with revision), exists,
// missing, value (with value or text) or lock (with token). An operation is get, set
// or setIfUnset (with value or text, expireIn, deleteIn), expire, delete, or add (with
// delta). A value is base64, text is the value as it is. What is unknown or does not
// belong there is refused.
//
//	curl -X POST -d '{"if":[{"kind":"missing","key":"done/7"}],"then":[{"op":"set","key":"done/7","text":"x"},{"op":"get","key":"visits"}],"else":[{"op":"get","key":"done/7"}]}' localhost:8080/v1/shards/1/txn
//	# 200 {"held":true,"revision":8,"results":[{"done":true,"revision":8},{"done":true,"revision":6,"value":"Mg=="}]}
//
// # Watches
//
// GET watch?key= or watch?prefix= is a stream of server-sent events: set, expired or
// deleted, from now on or from the revision from on. The id of an event is its
// revision, and a client that comes back with it as Last-Event-ID misses nothing and
// sees nothing twice. At least every 15 s there is an event, or a comment with the id
// from which to resume. What is not remembered any longer is 410, or, if the watch has
// begun, a last event of the type error with an error's body as its data: the keys
// have to be read again. A stream that just ends can be resumed.
//
//	curl -N 'localhost:8080/v1/shards/1/watch?prefix=done/&from=8'
//	# 200 id: 8
//	# event: set
//	# data: {"key":"done/7","value":"eA==","revision":8}
//
// # Locks
//
// Locks have names of their own, which have nothing to do with keys. POST takes one
// for a time to live, ttl, which may be forever; it is 409 if somebody has it. With
// wait=10s the client stands in the queue, first come, first served, for up to a
// minute. The owner that is returned renews the lock with PUT, which is 409 if it has
// ended, and releases it with DELETE; the token is the fencing token, for a condition
// of kind lock and the like. GET tells the token of who holds the lock alone, else it
// is 404. A client that goes away while it waits is taken from the queue; one that
// goes away later holds the lock until its ttl ends.
//
//	curl -X POST 'localhost:8080/v1/shards/1/locks/worker?ttl=30s&wait=10s'
//	# 200 {"owner":"OWNER","token":9}
//	curl -X POST 'localhost:8080/v1/shards/1/locks/worker?ttl=30s'
//	# 409 {"error":"somebody else holds the lock or waits for it","code":0,"kind":"final"}
//	curl localhost:8080/v1/shards/1/locks/worker
//	# 200 {"token":9}
//	curl -X PUT 'localhost:8080/v1/shards/1/locks/worker?owner=OWNER&ttl=1m'
//	# 200 {"owner":"OWNER","token":9}
//	curl -X DELETE 'localhost:8080/v1/shards/1/locks/worker?owner=OWNER'
//	# 200 {"released":true}
//
// # The rest
//
//	curl localhost:8080/v1/shards
//	# 200 {"shards":[1]}
//	curl localhost:8080/v1/shards/1/info
//	# 200
//	curl localhost:8080/healthz
//	# 200 {"live":true}
//	curl localhost:8080/readyz
//	# 200 {"ready":true,"shards":{"1":"ready"}}
//
// info is what store.Info has. healthz is 200 as long as the process answers. readyz
// is 200 if each shard answers a linearizable read within a second, else 503: a witness has
// no data to read.
//
// # Deadlines
//
// An operation may take 10 s, or as long as the parameter timeout or else the header
// Dkv-Timeout says, but no more than a minute. For a watch and a wait that is how long
// they may take to begin.
//
//	curl -H 'Dkv-Timeout: 500ms' localhost:8080/v1/shards/1/keys/visits
//	# 200 2
//
// # Errors
//
// The body of an error is {"error": text, "code": number, "kind": kind}. The code is
// that of a sentinel of package store, 0 if there is none. The kind says what became
// of the operation:
//
//   - notApplied: nothing, and it never will; to try again is safe. There is a
//     Retry-After.
//   - unknown: it may have been done, may be done yet, or never. To try again may do
//     it twice; a condition prevents that. After a try to take a lock, owner is who may
//     hold it, to be released.
//   - final: nothing, and trying again will not help.
//   - closed: nothing; the server shuts down.
//
// The statuses:
//
//   - 400 for what is malformed or out of its limits, parameters that are not known
//     included
//   - 401, 403 for what is not allowed, and for a browser on another site's behalf;
//     who has no right to a shard is not told whether there is one
//   - 404 for a key, lock, shard or resource that is not there; 405
//   - 409 for a lock that is taken or not held, and add on what is not a number
//   - 410 for a watch from what is not remembered any longer
//   - 412 for a condition of a header that does not hold
//   - 413 for a key of more than 4 KiB, a value of more than 8 MiB, and a transaction
//     whose body is longer than 12 MiB
//   - 421 for a Host that is neither localhost nor an address, on the loopback
//     interface without TLS, if the server has no tokens: a browser may have been led
//     there by a name of another site; and for a witness, which has no data: another
//     server has it
//   - 429 if too much is under way
//   - 500 for a fault of the server, whose kind is unknown
//   - 503 if no quorum answers in time, or the store is closed
//   - 504 if the outcome is unknown
//   - 507 if the store or its disk is full
package rest
