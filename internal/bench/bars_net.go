package main

// netBars are what dkv's network mode has to reach beside redis, or beside etcd where
// there are replicas, as ratios within each round wherever one can be formed.
var netBars = []bar{
	{"set by 1,024 callers / redis'", "×", true, 1.2, 2, besideRedis(netName(localNet, "set", 1024), opsPerSec)},
	{"get by 1,024 callers / redis'", "×", true, 1.2, 2, besideRedis(netName(localNet, "get", 1024), opsPerSec)},
	{"set by 128 callers / redis'", "×", true, 1.1, 1.5, besideRedis(netName(localNet, "set", 128), opsPerSec)},
	{"get by 128 callers / redis'", "×", true, 1.1, 1.5, besideRedis(netName(localNet, "get", 128), opsPerSec)},
	{"a lone get, p50 / redis'", "×", false, 1.0, 0.8, besideRedis(netName(localNet, "get", 1), p50Micros)},
	{"replicated writes of 1,024 callers / etcd's", "×", true, 10, 20, beside(netName(replicatedNet, "set", 1024), opsPerSec)},
	{"linearizable reads of 1,024 callers / etcd's", "×", true, 10, 20, beside(netName(replicatedNet, "get", 1024), opsPerSec)},
	{"set by 128 callers over a unix socket / over TCP", "×", true, 1.1, 1.1, toAnother(netName(unixNet, "set", 128), netName(localNet, "set", 128))},
	{"get by 128 callers over a unix socket / over TCP", "×", true, 1.1, 1.1, toAnother(netName(unixNet, "get", 128), netName(localNet, "get", 128))},
	{"allocations per get, client and server, 128 callers", "", false, 6, 2, ofCluster(getsName(128), allocsPerOp)},
	{"set of values of 512 KiB, 4 or 16 callers", "GB/s", true, 1.5, 2.5, greater(netName(valuesNet, "set", 4), netName(valuesNet, "set", 16), gbPerSec)},
	{"get of values of 512 KiB, 4 or 16 callers", "GB/s", true, 1.5, 2.5, greater(netName(valuesNet, "get", 4), netName(valuesNet, "get", 16), gbPerSec)},
	{"memory of an idle connection in the server", "KiB", false, 16, 16, ofCluster(idleName(5000), rssPerConnection)},
}

// besideRedis compares dkv with redis.
func besideRedis(workload, metric string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.ratio(figure{workload, clusterSubject, metric}, figure{workload, netBaseline, metric})
	}
}

// greater is what dkv reaches in one of two workloads.
func greater(one, other, metric string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		v, ok := r.median(figure{one, clusterSubject, metric})
		w, too := r.median(figure{other, clusterSubject, metric})
		return max(v, w), ok || too
	}
}
