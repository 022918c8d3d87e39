package main

// clusterBars are what dkv has to reach beside etcd, as ratios within each round
// wherever one can be formed.
var clusterBars = []bar{
	{"writes of 1,024 callers / etcd's", "×", true, 8, 12, beside(cellName("write", "leader", 1024), opsPerSec)},
	{"writes of 128 callers / etcd's", "×", true, 4, 6, beside(cellName("write", "leader", 128), opsPerSec)},
	{"a lone write, p50 / etcd's", "×", false, 1.1, 0.7, beside(cellName("write", "leader", 1), p50Micros)},
	{"linearizable reads of 1,024 callers / etcd's", "×", true, 5, 8, beside(cellName("read", "leader", 1024), opsPerSec)},
	{"a lone linearizable read, p50 / etcd's", "×", false, 1.0, 0.7, beside(cellName("read", "leader", 1), p50Micros)},
	{"stale reads, one goroutine per core / Maple's Get and a copy", "×", false, 1.3, 1.3, ofCluster(coresName, timesMapleCopy)},
	{"writes of 1,024 callers through a follower / through the leader", "×", true, 0.85, 0.95, toAnother(cellName("write", "follower", 1024), cellName("write", "leader", 1024))},
	{"allocations per write where it is submitted, 1,024 callers", "", false, 6, 3, ofCluster(cellName(allocsName, "leader", 1024), allocsPerOp)},
	{"leader killed: until the next acknowledged write", "ms", false, 2000, 600, ofCluster(killedName, outageMillis)},
	{"restart of a member with 1M keys of 128 B", "s", false, 3, 1.5, ofCluster(restartName(1_000_000), readySecs)},
}

// beside compares dkv with etcd.
func beside(workload, metric string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.ratio(figure{workload, clusterSubject, metric}, figure{workload, clusterBaseline, metric})
	}
}

// toAnother compares two workloads of dkv.
func toAnother(workload, base string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.ratio(figure{workload, clusterSubject, opsPerSec}, figure{base, clusterSubject, opsPerSec})
	}
}

func ofCluster(workload, metric string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		return r.median(figure{workload, clusterSubject, metric})
	}
}
