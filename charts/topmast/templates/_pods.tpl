{{- /* What operator's and gateway's pods have in common. Each is called with (list $ "operator"). */}}

{{- /* The selector's labels win over the user's, or the Deployment would not find its pods. */}}
{{- define "topmast.podMetadata" -}}
{{- $root := index . 0 }}{{ $values := index $root.Values (index . 1) }}
{{- $labels := include "topmast.selector" . | fromYaml }}
labels: {{- merge $labels ($values.podLabels | default dict) ($root.Values.commonLabels | default dict) | toYaml | nindent 2 }}
{{- $annotations := $values.podAnnotations | default dict }}
{{- if and (eq (index . 1) "operator") $root.Values.engine.podDefaults }}
  {{- /* The operator reads the file when it starts: another content is another pod. */}}
  {{- $annotations = merge (dict "checksum/engine-pod-defaults" (toYaml $root.Values.engine.podDefaults | sha256sum)) $annotations }}
{{- end }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "topmast.pullSecrets" -}}
{{- $names := list }}
{{- range concat ((.Values.global).imagePullSecrets | default list) (.Values.images.pullSecrets | default list) }}
{{- $names = append $names (kindIs "map" . | ternary . (dict "name" .)) }}
{{- end }}
{{- with uniq $names }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "topmast.environment" -}}
{{- $values := index (index . 0).Values (index . 1) }}
{{- if or $values.env $values.extraEnv }}
env:
  {{- range $name, $value := $values.env }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with $values.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The rest of a pod's spec that users place. */}}
{{- define "topmast.placement" -}}
{{- $selector := include "topmast.selector" . | fromYaml }}
{{- $root := index . 0 }}{{ $values := index $root.Values (index . 1) }}
{{- include "topmast.pullSecrets" $root }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- hasKey . "labelSelector" | ternary . (merge (dict "labelSelector" (dict "matchLabels" $selector)) .) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Only with several pods: on a single one a budget could do nothing but forbid every drain. */}}
{{- define "topmast.podDisruptionBudget" -}}
{{- $root := index . 0 }}{{ $component := index . 1 }}{{ $values := index $root.Values $component }}
{{- $replicas := $values.replicas }}
{{- if ($values.autoscaling).enabled }}{{ $replicas = $values.autoscaling.minReplicas }}{{ end }}
{{- $budget := $values.podDisruptionBudget }}
{{- if and $budget.enabled (gt (int $replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "topmast.fullname" $root }}-{{ $component }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "topmast.labels" . | nindent 4 }}
spec:
  {{- if $budget.minAvailable }}
  minAvailable: {{ $budget.minAvailable }}
  {{- else }}
  maxUnavailable: {{ $budget.maxUnavailable }}
  {{- end }}
  {{- with $budget.unhealthyPodEvictionPolicy }}
  unhealthyPodEvictionPolicy: {{ . }}
  {{- end }}
  selector:
    matchLabels: {{- include "topmast.selector" . | nindent 6 }}
{{- end }}
{{- end }}
